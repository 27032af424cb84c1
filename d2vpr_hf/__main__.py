"""`python -m d2vpr_hf` is `d2vpr`."""

from d2vpr_hf.cli import main

main()
