"""The drawn flowers of `tlcli sample`, for trying tlcli without a download."""
