"""What the tests share: data, models and programs."""
