"""The four steps and the effect protocol they share: read, commit the intent, send once, classify, commit what is known."""
