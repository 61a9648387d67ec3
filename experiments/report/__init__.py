"""What people read of runs: one HTML page, and tables for spreadsheets and papers."""
