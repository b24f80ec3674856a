"""The status of a row: `SUCCESS`, or the reason why its picture is not there."""

SUCCESS = "success"
OPTED_OUT = "opted_out"
