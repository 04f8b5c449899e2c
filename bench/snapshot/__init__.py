"""What publishing one change costs on a full platform."""
