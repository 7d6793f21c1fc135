"""Patterns in: bundled pictures, your own pictures, and ways to corrupt them."""

from amlib.data import corrupt as corrupt
from amlib.data._icons import Icons as Icons, icons as icons
from amlib.data._mnist import Mnist as Mnist, mnist as mnist
from amlib.data.images import binarize as binarize, sprites as sprites
