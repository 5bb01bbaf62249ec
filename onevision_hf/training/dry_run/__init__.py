"""What a training would need, found out without its data: steps on dummy data and memory on paper."""
