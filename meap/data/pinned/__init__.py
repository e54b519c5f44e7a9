"""Everything that uses private names of streaming, whose version is therefore fixed.

dataset     files are checked before use, failures end an iteration, repetitions of rows are counted
stream      fetches and checks the files of a data set
order       orders an epoch in a fraction of memory and time
isolation   keeps runs on one machine apart
barrier     waits for other processes end where one has ended
"""

from meap.extras import require_version

require_version("meap.data", "mosaicml-streaming", "0.13.0")
