"""What this project costs beside the physical limit and beside others: ``make bench``."""
