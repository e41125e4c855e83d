"""Trials that a study might have run before: copies, in PostgreSQL, of those that it ran.

To run ten thousand takes hours; what the next one costs beside so many is measured in minutes.
"""

import sqlalchemy

_TRIALS = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_system_attributes",
    "trial_user_attributes",
)
_RUNS = ("params", "tags", "metrics", "latest_metrics")


def copy_trials(storage: str, tracking: str, arms: int, total: int) -> None:
    """Copies finished trials, in Optuna's database and in MLflow's, until a study has so many.

    The copy with number k is of trial k modulo `arms`, with the seed that a grid gives to its k-th trial.

    Args:
        storage, tracking: URLs of the two databases, whose only study has run each arm once, or was copied so before.
        arms: of the study's grid.
        total: trials that there are afterwards.
    """
    engine = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        (first,) = connection.exec_driver_sql("SELECT count(*) FROM trials").one()
        _copy_optuna(connection, arms, first, total)
    engine = sqlalchemy.create_engine(tracking, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        _copy_mlflow(connection, arms, first, total)
    for url in (storage, tracking):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def _copy_optuna(connection: sqlalchemy.Connection, arms: int, first: int, total: int) -> None:
    columns = _columns(connection, "trials", without=("trial_id", "number"))
    connection.exec_driver_sql(
        f"INSERT INTO trials (number, {columns}) SELECT k, {columns} "
        f"FROM generate_series({first}, {total - 1}) k JOIN trials t ON t.number = mod(k, {arms})"
    )
    for table in _TRIALS:
        key = sqlalchemy.inspect(connection).get_pk_constraint(table)["constrained_columns"]
        columns = _columns(connection, table, without=(*key, "trial_id"))
        connection.exec_driver_sql(
            f"INSERT INTO {table} (trial_id, {columns}) SELECT n.trial_id, {columns} FROM trials n "
            f"JOIN trials m ON m.number = mod(n.number, {arms}) "
            f"JOIN {table} x ON x.trial_id = m.trial_id WHERE n.number >= {first}"
        )
    for key, value in (
        ("config", f"regexp_replace(value_json, '\"seed\": \\d+', '\"seed\": ' || n.number / {arms})"),
        ("run_id", "'\"' || md5('run ' || n.number) || '\"'"),
    ):
        connection.exec_driver_sql(
            f"UPDATE trial_user_attributes x SET value_json = {value} FROM trials n "
            f"WHERE n.trial_id = x.trial_id AND n.number >= {first} AND x.key = '{key}'"
        )


def _copy_mlflow(connection: sqlalchemy.Connection, arms: int, first: int, total: int) -> None:
    connection.exec_driver_sql(
        "CREATE TEMPORARY TABLE copies ON COMMIT DROP AS "
        "SELECT k AS number, md5('run ' || k) AS run, t.run_uuid AS template "
        f"FROM generate_series({first}, {total - 1}) k "
        f"JOIN tags t ON t.key = 'trial' AND t.value = mod(k, {arms})::text"
    )
    columns = _columns(connection, "runs", without=("run_uuid", "artifact_uri"))
    connection.exec_driver_sql(
        f"INSERT INTO runs (run_uuid, artifact_uri, {columns}) "
        f"SELECT c.run, replace(artifact_uri, c.template, c.run), {columns} "
        "FROM copies c JOIN runs r ON r.run_uuid = c.template"
    )
    for table in _RUNS:
        columns = _columns(connection, table, without=("run_uuid",))
        connection.exec_driver_sql(
            f"INSERT INTO {table} (run_uuid, {columns}) SELECT c.run, {columns} FROM copies c "
            f"JOIN {table} x ON x.run_uuid = c.template"
        )
    connection.exec_driver_sql(
        "UPDATE tags SET value = c.number FROM copies c WHERE tags.run_uuid = c.run AND tags.key = 'trial'"
    )
    columns = _columns(connection, "inputs", without=("input_uuid", "destination_id"))
    connection.exec_driver_sql(
        f"INSERT INTO inputs (input_uuid, destination_id, {columns}) "
        f"SELECT md5(x.input_uuid || c.run), c.run, {columns} "
        "FROM copies c JOIN inputs x ON x.destination_id = c.template"
    )


def _columns(connection: sqlalchemy.Connection, table: str, without: tuple[str, ...]) -> str:
    names = [column["name"] for column in sqlalchemy.inspect(connection).get_columns(table)]
    return ", ".join(f'"{name}"' for name in names if name not in without)
