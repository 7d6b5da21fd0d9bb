"""Connections to Postgres, the pipeline over them, migrations, and the embedded Postgres."""
