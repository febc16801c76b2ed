"""What every package may use, and what depends on no other package.

errors       the errors that a person reads
deadline     how long a job waits for a silent machine or disk
units        sizes, times and rates as people write them
files        files that are replaced in one step
json_object  a JSON object, checked as it is read
terminal     the terminal that shows standard error
trace        where a rank's time goes
memory       what the machine has left, what this process takes
threads      threads that end with a with-block
"""
