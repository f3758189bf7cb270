"""bg-pipelines: a retailer's back-office jobs on Dagster."""
