"""Those who are compared: a module each, with ``run(job, watch)``."""
