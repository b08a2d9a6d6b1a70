"""The ledger: what happened to every case, kept so that a crash loses nothing and nobody can change it unnoticed."""
