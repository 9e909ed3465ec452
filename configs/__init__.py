"""The flag files of the recipes, installed as `trainers.configs`."""
