-- Once, on an empty PostgreSQL server: MLflow and Prefect get a user and databases that the other cannot open.
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD
\getenv prefect_password PREFECT_DATABASE_PASSWORD
CREATE USER mlflow PASSWORD :'mlflow_password';
CREATE USER prefect PASSWORD :'prefect_password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_users OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
REVOKE CONNECT ON DATABASE mlflow, mlflow_users, prefect FROM PUBLIC;
