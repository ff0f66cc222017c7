"""From a folder of images to a params.yaml that runs. Read first: `command`, then `survey`."""
