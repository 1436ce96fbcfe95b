"""The shared package of the course: what a chapter builds once, later chapters import from here.

`FLOORS` lists the rooms, ground first. A room imports only from floors below its own; within a room, files import each
other without circles.
"""

FLOORS = (
    ("files", "display", "pictures", "remembered", "warp_kernels"),
    ("checks",),
    ("geometry",),
    ("rendering",),
    ("layers", "deformation", "metrics"),
    ("losses",),
    ("estimation",),
    ("datasets",),
    ("models",),
    ("evaluation",),
    ("chapter", "processes", "weights"),
    ("training",),
    ("plots",),
    ("prediction", "widgets"),
    ("exercises",),
    ("course",),
)
