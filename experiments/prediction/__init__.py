"""Masks of any number of files: pictures, COCO results, and what is done already."""
