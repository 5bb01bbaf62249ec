"""What a frozen encoder knows: attentive probes, nearest neighbours, linear classifiers."""
