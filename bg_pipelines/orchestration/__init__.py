"""Orchestration: what speaks Dagster and is not one job's own; nothing below imports Dagster."""
