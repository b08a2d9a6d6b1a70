"""The core of subject onboarding, without Prefect: requests, vendor clients, steps, ledger, errors and settings."""

__version__ = "0.1.0"
