"""The programs that prepare weights.

split, verify, inspect   slabs are cut from a checkpoint, checked, shown
scatter                  slabs are sent to the machines of their ranks
synth                    random checkpoints and slabs, for measurements
"""
