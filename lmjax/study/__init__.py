"""Studies: spaces, sweep, statistics, tables, report, reproduction and bundles. Nothing in here is imported by the run."""
