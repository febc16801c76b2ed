"""The programs that prepare weights.

split, verify, inspect   cut a checkpoint into slabs, check them, show what they hold
scatter                  sends slabs to the machines of their ranks
synth                    makes random checkpoints and slabs, for measurements
"""
