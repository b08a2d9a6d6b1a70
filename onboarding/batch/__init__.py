"""Files of many subjects: reading them, taking them in, and what is written beside them afterwards."""
