"""The shared package of the course: what a chapter builds once, later chapters import from here.

Floors, ground first; a module imports only from its own floor or below:
checks, files → geometry → rendering → deformation, losses, metrics → estimation → datasets, models
→ training → plots, widgets, exercises → runs, report, cli, course.
"""
