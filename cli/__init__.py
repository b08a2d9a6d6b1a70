"""The command line. Commands import what they need when they run, so that looking at cases never waits for Prefect."""
