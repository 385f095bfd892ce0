"""The programs a Constitutional AI pipeline runs: one module a program, `python -m cai_jobs.NAME --flags`."""
