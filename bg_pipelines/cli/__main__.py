"""`python -m bg_pipelines.cli`: the same as `bg-pipelines`."""

from bg_pipelines.cli.app import main

main()
