"""This project's settings for a benchmark: the defaults of an installation, a ledger of its own, the sandbox."""

import os

from benchmarks.job import Job
from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import migrate
from onboarding.settings import load_settings
from vendor_sandbox import seed


def set_environment(job: Job) -> None:
    """Put the settings into this process's environment, where every door of the project finds them; make the ledger."""
    settings = {
        "LEDGER_URL": job.database_url,
        "SETTINGS_FILE": os.devnull,
        "OPENSPECIMEN_URL": job.addresses["openspecimen_url"],
        "OPENSPECIMEN_USERNAME": seed.USERNAME,
        "OPENSPECIMEN_PASSWORD": seed.PASSWORD,
        "CLINICAL_ONE_URL": job.addresses["clinical_one_url"],
        "CLINICAL_ONE_TOKEN_URL": job.addresses["token_url"],
        "CLINICAL_ONE_CLIENT_ID": seed.CLIENT_ID,
        "CLINICAL_ONE_CLIENT_SECRET": seed.CLIENT_SECRET,
        "CLINICAL_ONE_SCOPE": seed.SCOPE,
        "LOOPBACK_ONLY": "true",
        "CONCURRENCY": str(job.at_once),
        "REQUESTS_IN_FLIGHT": str(job.at_once),
    }
    if not job.database_url.startswith("sqlite"):
        settings["LEDGER_KEY"] = LedgerKey.new_text()  # a new SQLite ledger makes its own
    os.environ.update({f"ONBOARDING_{name}": value for name, value in settings.items()})
    migrate(load_settings())
