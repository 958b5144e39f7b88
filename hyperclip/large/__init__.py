"""Images of any size: segmented by windows, in bounded memory, with the answer that does not depend
on the part that is asked or on how much is in memory at a time.
"""

from .request import Request
from .segmenting import Areas, segment_file, segment_request
