"""Reports on runs that have ended: tables and plots from the journal and the trainer's own result file."""
