# R over ADBC.
#
# Packages: adbcdrivermanager and nanoarrow from CRAN; adbcflightsql from R-multiverse, or from the folder
# r/adbcflightsql of the repository apache/arrow-adbc with pak.
#
# Not run by this repository's tests, which have no R.

library(adbcdrivermanager)

uri <- commandArgs(trailingOnly = TRUE)[1]
if (is.na(uri)) uri <- "grpc://127.0.0.1:31337"

database <- adbc_database_init(adbcflightsql::adbcflightsql(), uri = uri)
connection <- adbc_connection_init(database)

# A query as an Arrow stream, then as a data frame.
connection |>
  read_adbc("SELECT dest, count(*) AS flights FROM nyc.flights GROUP BY dest ORDER BY flights DESC LIMIT 3") |>
  as.data.frame() |>
  print()

# A data frame into a new table.
data.frame(id = 1:3, name = c("a", "b", NA)) |>
  write_adbc(connection, "example_r", mode = "create")

adbc_connection_release(connection)
adbc_database_release(database)
