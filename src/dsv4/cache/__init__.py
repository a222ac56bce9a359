"""What was computed for one request and can serve another: finished blocks by what led to them."""
