"""Speed, size and distance from the hardware's limit of the multitask model, beside other fusions and LMF_Paddle."""
