"""Starts exabgp, whose package stands beside this script."""

import pwd
import sys

# The root that the interpreter runs in has no list of users, and exabgp looks one up.
pwd.getpwnam = lambda name: pwd.struct_passwd((name, "", 0, 0, "", "/", ""))

# The script's own folder would give this script for the package.
sys.path[0] = "/mnt/package"
sys.argv[0] = "exabgp"

from exabgp.application import run_exabgp  # noqa: E402

run_exabgp()
