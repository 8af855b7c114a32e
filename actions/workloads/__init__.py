"""Running work: Kubernetes, EC2, SageMaker, Batch, Lambda."""
