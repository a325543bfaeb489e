#include "folder.h"

#include <gtest/gtest.h>
#include <lab/adam.h>
#include <lab/checkpoint.h>
#include <torch/torch.h>

namespace sparsum::lab {
namespace {

std::vector<at::Tensor> make_parameters(at::ScalarType dtype) {
  torch::manual_seed(3);
  std::vector<at::Tensor> parameters;
  for (const auto& shape : {std::vector<int64_t>{5, 7}, {7}, {1}, {300, 11}}) {
    parameters.push_back(at::randn(shape, dtype).set_requires_grad(true));
  }
  return parameters;
}

Adam::Parameters named(const std::vector<at::Tensor>& parameters) {
  Adam::Parameters result;
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::string name = "p";
    name += std::to_string(i);
    result.emplace_back(name, parameters[i]);
  }
  return result;
}

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> result;
  for (const auto& p : parameters) result.push_back(p.detach().clone().set_requires_grad(true));
  return result;
}

/// The gradient of step `step` for parameter i; none for the last parameter on every third step.
at::Tensor gradient(const at::Tensor& parameter, size_t i, int step) {
  if (i == 3 && step % 3 == 0) return {};
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t(100 * step + i));
  return at::randn(parameter.sizes(), generator, parameter.options().requires_grad(false));
}

TEST(Adam, MakesTheUpdatesOfTorchOptimAdam) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const double weight_decay : {0.0, 0.1}) {
      const auto ours = make_parameters(dtype), theirs = copies(ours);
      Adam adam(named(ours), {.learning_rate = 0.01, .weight_decay = weight_decay});
      torch::optim::Adam reference(theirs,
                                   torch::optim::AdamOptions(0.01).weight_decay(weight_decay));
      for (int step = 1; step <= 30; ++step) {
        for (size_t i = 0; i < ours.size(); ++i) {
          ours[i].mutable_grad() = gradient(ours[i], i, step);
          theirs[i].mutable_grad() = gradient(ours[i], i, step);
        }
        adam.step();
        reference.step();
      }
      const double tolerance = dtype == at::kDouble ? 1e-12 : 2e-5;
      for (size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(at::allclose(ours[i], theirs[i], tolerance, tolerance))
            << dtype << ", decay " << weight_decay << ", parameter " << i << ": "
            << (ours[i] - theirs[i]).abs().max().item<double>();
      }
    }
  }
}

TEST(Adam, AScaledStepIsAStepAtAScaledLearningRate) {
  const auto one = make_parameters(at::kDouble), other = copies(one);
  Adam scaled(named(one), {.learning_rate = 0.04}), plain(named(other), {.learning_rate = 0.01});
  for (int step = 1; step <= 3; ++step) {
    for (size_t i = 0; i < one.size(); ++i) {
      one[i].mutable_grad() = gradient(one[i], i, step);
      other[i].mutable_grad() = gradient(one[i], i, step);
    }
    scaled.step(0.25);
    plain.step();
  }
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(other[i])) << i;
}

TEST(Adam, ZeroGradDropsTheGradients) {
  const auto parameters = make_parameters(at::kFloat);
  Adam adam(named(parameters), {});
  for (const auto& p : parameters) p.square().sum().backward();
  adam.zero_grad();
  for (const auto& p : parameters) EXPECT_FALSE(p.grad().defined());
}

TEST(Adam, GoesOnFromACheckpointBitForBit) {
  const sparsum_test::Folder folder;
  const auto straight = make_parameters(at::kFloat);
  Adam adam(named(straight), {.learning_rate = 0.01, .weight_decay = 1e-3});
  std::vector<at::Tensor> resumed;
  for (int step = 1; step <= 10; ++step) {
    for (size_t i = 0; i < straight.size(); ++i) {
      straight[i].mutable_grad() = gradient(straight[i], i, step);
    }
    adam.step();
    if (step == 4) {
      resumed = copies(straight);
      Checkpoint checkpoint("test", "model");
      adam.save(checkpoint);
      checkpoint.write(folder / "adam.safetensors");
    }
  }
  Adam second(named(resumed), {.learning_rate = 0.01, .weight_decay = 1e-3});
  second.load(Checkpoint::read(folder / "adam.safetensors", "test", "model"));
  for (int step = 5; step <= 10; ++step) {
    for (size_t i = 0; i < resumed.size(); ++i) {
      resumed[i].mutable_grad() = gradient(resumed[i], i, step);
    }
    second.step();
  }
  for (size_t i = 0; i < straight.size(); ++i) EXPECT_TRUE(straight[i].equal(resumed[i])) << i;
}

TEST(Adam, GroupsHaveTheirOwnOptions) {
  // One group of the first parameter, another of the rest, as if by two optimisers; dtypes may
  // differ within a group.
  const sparsum_test::Folder folder;
  auto ours = make_parameters(at::kFloat);
  ours[2] = ours[2].detach().to(at::kDouble).set_requires_grad(true);
  const auto theirs = copies(ours);
  const auto split = [](const std::vector<at::Tensor>& parameters) {
    const auto all = named(parameters);
    return std::pair(Adam::Parameters(all.begin(), all.begin() + 1),
                     Adam::Parameters(all.begin() + 1, all.end()));
  };
  const AdamOptions slow{.learning_rate = 1e-3, .weight_decay = 0.1}, fast{.learning_rate = 0.05};
  const auto make = [&](const std::vector<at::Tensor>& parameters) {
    const auto [first, rest] = split(parameters);
    return Adam(std::vector<Adam::Group>{{first, slow}, {rest, fast}});
  };
  Adam grouped = make(ours);
  const auto [first, rest] = split(theirs);
  Adam one(first, slow), other(rest, fast);
  std::vector<at::Tensor> resumed;
  for (int step = 1; step <= 6; ++step) {
    for (size_t i = 0; i < ours.size(); ++i) {
      ours[i].mutable_grad() = gradient(ours[i], i, step);
      theirs[i].mutable_grad() = gradient(theirs[i], i, step);
    }
    grouped.step();
    one.step();
    other.step();
    if (step == 3) {
      resumed = copies(ours);
      Checkpoint checkpoint("test", "model");
      grouped.save(checkpoint);
      checkpoint.write(folder / "adam.safetensors");
    }
  }
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(ours[i].equal(theirs[i])) << i;

  Adam second = make(resumed);
  second.load(Checkpoint::read(folder / "adam.safetensors", "test", "model"));
  for (int step = 4; step <= 6; ++step) {
    for (size_t i = 0; i < resumed.size(); ++i) {
      resumed[i].mutable_grad() = gradient(resumed[i], i, step);
    }
    second.step();
  }
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(ours[i].equal(resumed[i])) << i;
  second.zero_grad();
  for (const auto& parameter : resumed) EXPECT_FALSE(parameter.grad().defined());
}

TEST(Adam, NamesTheStateThatACheckpointLacks) {
  const sparsum_test::Folder folder;
  Checkpoint("test", "model").write(folder / "empty.safetensors");
  const auto parameters = make_parameters(at::kFloat);
  Adam adam(named(parameters), {});
  const std::string message = sparsum_test::input_error_of(
      [&] { adam.load(Checkpoint::read(folder / "empty.safetensors", "test", "model")); });
  EXPECT_NE(message.find("empty.safetensors: expected a tensor 'adam/p0/mean', found none"),
            std::string::npos)
      << message;
}

}  // namespace
}  // namespace sparsum::lab
