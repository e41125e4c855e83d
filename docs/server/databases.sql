-- Run once, by the superuser mlflow in its database mlflow: the accounts of MLflow's server, and Optuna's studies, which
-- a role of their own can reach, and nothing else.
\getenv password OPTUNA_DATABASE_PASSWORD
CREATE ROLE optuna LOGIN PASSWORD :'password';
CREATE DATABASE optuna OWNER optuna;
CREATE DATABASE mlflow_accounts;
REVOKE CONNECT ON DATABASE mlflow, mlflow_accounts, postgres FROM PUBLIC;
