// A discrete autoencoder: z, one of ten values, explains an image. The part between the marks is
// the snippet in README.md; main() checks its gradient against brute force.

// [README]
#include <sparsum/sparsum.h>
#include <torch/torch.h>

at::Tensor loss_of(const at::Tensor& x, torch::nn::Linear encoder, torch::nn::Linear decoder) {
  const sparsum::Categorical values(10);
  const auto q = sparsum::sparsemax(values, encoder->forward(x));  // x: [B, 784]

  // Called with the n pairs (image, value) whose probability is not zero: n is near B, not 10·B.
  const auto error = [&](const sparsum::Assignments& z) {
    const at::Tensor decoded = decoder->forward(z.values());  // [n, 10] -> [n, 784]
    return (decoded - z.gather(x)).square().sum(-1);          // [n]
  };

  // Σ_z q(z|x) error(x, z) − H(q), exactly; backward() gives its exact gradient.
  return (sparsum::expectation(q, error) - q.entropy()).mean();
}
// [README]

#include <iostream>

int main() {
  torch::manual_seed(0);
  const at::Tensor x = torch::rand({32, 784});
  torch::nn::Linear encoder(784, 10), decoder(10, 784);
  const std::vector<at::Tensor> weights = {encoder->weight, decoder->weight};

  const auto gradient = torch::autograd::grad({loss_of(x, encoder, decoder)}, weights);

  // The same by brute force: all ten values for every image.
  const at::Tensor q = sparsum::sparsemax(encoder->forward(x));
  const at::Tensor decoded = decoder->forward(torch::eye(10));
  const at::Tensor errors = (decoded.unsqueeze(0) - x.unsqueeze(1)).square().sum(-1);
  const at::Tensor entropy = -(torch::xlogy(q, q)).sum(-1);
  const auto expected = torch::autograd::grad({((q * errors).sum(-1) - entropy).mean()}, weights);

  for (size_t i = 0; i < weights.size(); ++i) {
    if (!at::allclose(gradient[i], expected[i], /*rtol=*/1e-3, /*atol=*/1e-4)) {
      std::cerr << "gradients differ by " << (gradient[i] - expected[i]).abs().max() << "\n";
      return 1;
    }
  }
  std::cout << "decoder calls per image: " << (q > 0).sum(-1).to(at::kFloat).mean().item<float>()
            << " of 10\n";
  return 0;
}
