"""What the tiny twins of several families are made of."""

from __future__ import annotations

SEED = 20260
# words of motion captions; a twin's vocabulary has them, and spells what is not among them
_TEXT = """a an and another are at away back ball behind big bird black blue bounces box camera car cat center circle
    clip corner cube direction disc dog does down falls fast for frame from front goes green grey hand happens he her
    his how in into is it jumps large left man moves moving near no object of off on one orange other out over passes
    person picks pink places purple pushes rectangle red right rises rolls rotates runs scene she shrinks slides slowly
    small speed spins square star static stays still stops swings that the then there they this to toward towards
    triangle turns two up upward video walks what when where which while white with woman yellow yes zooms"""
WORDS = tuple(_TEXT.split())
