"""Looking at a folder of images and at their labels, and describing both in a dataset file."""
