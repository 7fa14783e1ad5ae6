"""Settings for those who grade with nbgrader: copy this file and solutions/<framework>/ there.

The text that explains an answer is tagged "solution" and is not released with the task.
"""

from nbconvert.preprocessors import TagRemovePreprocessor
from nbgrader.converters import GenerateAssignment

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "transfer-learning"
c.TagRemovePreprocessor.remove_cell_tags = {"solution"}
c.TagRemovePreprocessor.enabled = True
steps = GenerateAssignment.class_traits()["preprocessors"].default()
c.GenerateAssignment.preprocessors = [TagRemovePreprocessor, *steps]
