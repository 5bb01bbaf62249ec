"""What must survive a kill: run folders, journal, process pool, ranks. Knows no media and no model."""
