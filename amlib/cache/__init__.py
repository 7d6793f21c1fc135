"""Results kept on disk, under a key that everything they come from has a part in.

A result is answered from disk only if nothing that made it has changed: the code of the function
and of all it calls, the values it closes over, its arguments, amlib, and the versions of Python,
JAX and every other library. Else it is computed again, and kept beside the old one. Files hold
arrays and a description of their structure in JSON; nothing in them is ever unpickled or run.
"""

from amlib.cache._cached import VARIABLE as VARIABLE, cached as cached
