"""The study of KL fine-tuning."""
