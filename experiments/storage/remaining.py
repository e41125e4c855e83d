"""How many trials a study still has to train, asked before anything of it is opened, created or held."""

from pathlib import Path

import sqlalchemy

from experiments.storage.storage_connection import or_user_error, parse_url

_OVER = (
    "SELECT count(*) FROM trials JOIN studies USING (study_id) "
    "WHERE study_name = :study AND state IN ('COMPLETE', 'PRUNED')"
)


def remaining(url: str, study: str, trials: int) -> int:
    """How many of the trials that a study shall have are neither finished nor pruned; those that wait or run count.

    Args:
        url: of Optuna's storage, which need not be there yet.
        study: the study's name; it need not be there either.
        trials: the total, over all commands and drivers.

    Raises:
        UserError: if the storage does not answer or is none. The message never shows a password.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        return trials
    return max(0, trials - or_user_error(parsed, lambda: _over(parsed, study)))


def _over(url: sqlalchemy.URL, study: str) -> int:
    # Not through Optuna, which would make the tables: several drivers at once must not.
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("trials"):
            return 0
        return int(connection.execute(sqlalchemy.text(_OVER), {"study": study}).scalar_one())
