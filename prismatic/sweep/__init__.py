"""Many runs by one command: `grid` says which, `engines` where, `conduct` until all are done, `outcome` what they say.

The unit is one plain training command in a process and a run folder of its own, so whatever a sweep does can be done
by hand, and a run that is done is never done again.
"""
