"""The market: pure array functions, one file a stage. No learning, no Gymnasium, no plotting in here."""
