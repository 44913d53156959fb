"""MotionEnhancer's steps and what they share; a file's path is its import path."""
