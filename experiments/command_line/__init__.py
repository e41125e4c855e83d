"""What every entry point shares: options, presets, how it starts and ends, what it shows."""
