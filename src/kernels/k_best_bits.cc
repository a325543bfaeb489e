#include "sparsum/kernels/k_best_bits.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace sparsum::kernels {
namespace {

/// A bit and the key it is ordered by: smaller keys first, then smaller indices.
struct Ranked {
  double key;
  int64_t bit;
  bool operator<(const Ranked& other) const {
    return key != other.key ? key < other.key : bit < other.bit;
  }
};

/// Sparsemax's threshold of a growing list of scores that descends: says when the next one gets no
/// mass any more.
class Certificate {
 public:
  /// The scores' rounding: what is nearer to τ than that counts as above it.
  explicit Certificate(double epsilon) : margin_(4 * epsilon) {}
  bool covers(double score) const { return count_ > 0 && score < (sum_ - 1) / count_ - margin_; }
  void add(double score) {
    sum_ += score;
    count_ += 1;
  }

 private:
  double sum_ = 0, count_ = 0, margin_;
};

// --- any number of bits on -----------------------------------------------------------------------

/// The subsets of numbers that ascend, in the order of their sums.
class SubsetSums {
 public:
  explicit SubsetSums(std::vector<Ranked>& numbers) : numbers_(numbers) {}

  void start() {
    nodes_.clear();
    heap_.clear();
    if (!numbers_.empty()) heap_.push_back(make(-1, 0));
  }
  bool empty() const { return heap_.empty(); }
  double next_sum() const { return heap_.front().sum; }

  /// Removes the next set and appends its members' bits, ascending.
  int64_t pop(std::vector<int64_t>& bits) {
    const auto before = static_cast<std::ptrdiff_t>(bits.size());
    const int32_t node = heap_.front().node;
    collect(node, bits);
    if (static_cast<std::ptrdiff_t>(bits.size()) - before > 1) {
      std::sort(bits.begin() + before, bits.end());
    }
    const Node popped = nodes_[static_cast<size_t>(node)];
    const int32_t next = popped.last + 1;
    if (static_cast<size_t>(next) < numbers_.size()) {
      // One of the two takes the popped one's place at the top.
      heap_.front() = make(popped.rest, next);
      sink();
      heap_.push_back(make(node, next));
      rise();
    } else {
      heap_.front() = heap_.back();
      heap_.pop_back();
      if (!heap_.empty()) sink();
    }
    return static_cast<int64_t>(bits.size()) - before;
  }

 private:
  struct Node {
    double sum;
    int32_t rest;  // the set without its last member, or −1: empty
    int32_t last;  // rank of the last member
  };
  struct Entry {
    double sum;
    int32_t node;
  };

  Entry make(int32_t rest, int32_t last) {
    double sum = numbers_[static_cast<size_t>(last)].key;
    if (rest >= 0) sum += nodes_[static_cast<size_t>(rest)].sum;
    nodes_.push_back({sum, rest, last});
    return {sum, static_cast<int32_t>(nodes_.size()) - 1};
  }
  // A binary heap, the first entry on top.
  void sink() {
    const Entry entry = heap_.front();
    const size_t n = heap_.size();
    size_t i = 0;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
      if (child + 1 < n && before(heap_[child + 1], heap_[child])) ++child;
      if (!before(heap_[child], entry)) break;
      heap_[i] = heap_[child];
      i = child;
    }
    heap_[i] = entry;
  }
  void rise() {
    const Entry entry = heap_.back();
    size_t i = heap_.size() - 1;
    for (; i > 0 && before(entry, heap_[(i - 1) / 2]); i = (i - 1) / 2)
      heap_[i] = heap_[(i - 1) / 2];
    heap_[i] = entry;
  }
  void collect(int32_t node, std::vector<int64_t>& bits) const {
    for (; node >= 0; node = nodes_[static_cast<size_t>(node)].rest) {
      bits.push_back(numbers_[static_cast<size_t>(nodes_[static_cast<size_t>(node)].last)].bit);
    }
  }
  // A set's successors are later in this order than the set itself, whatever ties: so the heap
  // always holds the next one.
  bool before(const Entry& a, const Entry& b) {
    return a.sum != b.sum ? a.sum < b.sum : before_among_equals(a.node, b.node);
  }
  bool before_among_equals(int32_t a, int32_t b) {
    left_.clear();
    right_.clear();
    collect(a, left_);
    collect(b, right_);
    std::sort(left_.begin(), left_.end());
    std::sort(right_.begin(), right_.end());
    return left_ < right_;
  }

  std::vector<Ranked>& numbers_;
  std::vector<Node> nodes_;
  std::vector<Entry> heap_;
  std::vector<int64_t> left_, right_;
};

/// The `count` smallest |t_i|, ascending; −∞ is none of them.
template <typename T>
void smallest_magnitudes(const T* scores, int64_t bits, int64_t count, std::vector<Ranked>& out) {
  out.clear();
  if (count == 0) return;
  constexpr int64_t kInsertion = 48;  // longer lists are selected from all
  if (count > kInsertion) {
    for (int64_t i = 0; i < bits; ++i) {
      const double key = std::abs(static_cast<double>(scores[i]));
      if (std::isfinite(key)) out.push_back({key, i});
    }
    if (static_cast<int64_t>(out.size()) > count) {
      std::nth_element(out.begin(), out.begin() + (count - 1), out.end());
      out.resize(static_cast<size_t>(count));
    }
    std::sort(out.begin(), out.end());
    return;
  }
  double bound = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < bits; ++i) {
    const double key = std::abs(static_cast<double>(scores[i]));
    if (!(key < bound)) continue;  // later bits lose ties
    auto place = out.end();
    if (static_cast<int64_t>(out.size()) == count) {
      --place;
    } else {
      out.push_back({});
      place = out.end() - 1;
    }
    for (; place != out.begin() && (place - 1)->key > key; --place) *place = *(place - 1);
    *place = {key, i};
    if (static_cast<int64_t>(out.size()) == count) bound = out.back().key;
  }
}

// --- between `least` and `most` bits on ----------------------------------------------------------

/// The sets of `least` to `most` of some ranked numbers that descend, in the order of their sums.
/// Ranks below `begin` are in all of them and those from `end` on in none.
class BoundedSums {
 public:
  /// window: the numbers of ranks begin … end − 1, descending; their keys are negated.
  void start(const std::vector<Ranked>& window, int64_t begin, int64_t end, int64_t least,
             int64_t most, int64_t best_size) {
    window_ = window.data();
    begin_ = begin;
    end_ = end;
    least_ = std::max(least, begin);
    most_ = std::min(most, end);
    best_ = best_size;
    nodes_.clear();
    heap_.clear();
    push({0, -1, best_, best_, best_});
  }
  bool empty() const { return heap_.empty(); }
  /// The next set's sum, relative to the best one's.
  double next_sum() const { return nodes_[static_cast<size_t>(heap_.front())].sum; }

  /// Removes the next set and appends where it differs from the best one.
  int64_t pop(std::vector<int64_t>& bits) {
    std::pop_heap(heap_.begin(), heap_.end(), Later{this});
    const int32_t id = heap_.back();
    heap_.pop_back();
    const Node node = nodes_[static_cast<size_t>(id)];
    const int64_t written = write_flips(id, bits);

    const int64_t size = node.size;
    if (node.item == size) {  // the best set of its size
      if (size >= best_ && size < most_) {
        push({node.sum + number(size), -1, size + 1, size + 1, size + 1});
      }
      if (size <= best_ && size > least_) {
        push({node.sum - number(size - 1), -1, size - 1, size - 1, size - 1});
      }
      if (size > begin_ && size < end_) move_from_home(node, -1, size - 1);
      return written;
    }
    const int64_t limit = node.rest < 0 ? end_ : nodes_[static_cast<size_t>(node.rest)].place;
    if (node.place + 1 < limit) {
      push({node.sum + (number(node.place + 1) - number(node.place)), node.rest, size, node.item,
            node.place + 1});
    }
    if (node.item > begin_) move_from_home(node, id, node.item - 1);
    return written;
  }

 private:
  // A set of `size` ranks; its members before `item` are at home, which is the rank of their own
  // number; `item` is at `place`; those after it are described by `rest`.
  struct Node {
    double sum;
    int32_t rest;
    int64_t size, item, place;
  };
  struct Later {
    const BoundedSums* sums;
    bool operator()(int32_t a, int32_t b) const { return sums->before(b, a); }
  };

  double number(int64_t rank) const { return -window_[rank - begin_].key; }
  void push(const Node& node) {
    nodes_.push_back(node);
    heap_.push_back(static_cast<int32_t>(nodes_.size()) - 1);
    std::push_heap(heap_.begin(), heap_.end(), Later{this});
  }
  void move_from_home(const Node& node, int32_t rest, int64_t item) {
    // The difference first: it is exactly 0 for equal numbers, so that ties stay ties.
    push({node.sum + (number(item + 1) - number(item)), rest, node.size, item, item + 1});
  }
  bool before(int32_t a, int32_t b) const {
    const Node* x = &nodes_[static_cast<size_t>(a)];
    const Node* y = &nodes_[static_cast<size_t>(b)];
    if (x->sum != y->sum) return x->sum > y->sum;
    if (x->size != y->size) return x->size < y->size;
    for (;;) {
      if (x->item != y->item) return x->item > y->item;  // the other one has left home earlier
      if (x->place != y->place) return x->place < y->place;
      if (x->rest < 0 || y->rest < 0) return x->rest < 0 && y->rest >= 0;
      x = &nodes_[static_cast<size_t>(x->rest)];
      y = &nodes_[static_cast<size_t>(y->rest)];
    }
  }
  int64_t write_flips(int32_t id, std::vector<int64_t>& bits) const {
    const auto before = bits.size();
    const auto flip = [&](int64_t rank) { bits.push_back(window_[rank - begin_].bit); };
    const Node* node = &nodes_[static_cast<size_t>(id)];
    // Members up to `item` are the ranks below it; beyond, only those at a place.
    int64_t rank = node->item;
    for (int64_t r = best_; r < rank; ++r) flip(r);
    if (node->item != node->size) {
      for (;;) {
        for (; rank < std::min(node->place, best_); ++rank) flip(rank);
        if (node->place >= best_) flip(node->place);
        rank = node->place + 1;
        if (node->rest < 0) break;
        node = &nodes_[static_cast<size_t>(node->rest)];
      }
    }
    for (; rank < best_; ++rank) flip(rank);
    std::sort(bits.begin() + static_cast<std::ptrdiff_t>(before), bits.end());
    return static_cast<int64_t>(bits.size() - before);
  }

  const Ranked* window_ = nullptr;
  int64_t begin_ = 0, end_ = 0, least_ = 0, most_ = 0, best_ = 0;
  std::vector<Node> nodes_;
  std::vector<int32_t> heap_;
};

/// Orders the ranks begin … end − 1 of `numbers`, and leaves those before and after them where they
/// belong.
void sort_window(std::vector<Ranked>& numbers, int64_t begin, int64_t end) {
  if (begin > 0) std::nth_element(numbers.begin(), numbers.begin() + begin, numbers.end());
  if (end < static_cast<int64_t>(numbers.size())) {
    std::nth_element(numbers.begin() + begin, numbers.begin() + end, numbers.end());
  }
  std::sort(numbers.begin() + begin, numbers.begin() + end);
}

// --- rows ----------------------------------------------------------------------------------------

template <typename Sums>
int64_t list_sets(Sums& sums, double sign, const KBestLimit& limit, double epsilon, int64_t listed,
                  FlipLists& flips) {
  Certificate certificate(epsilon);
  if (listed > 0) certificate.add(0);
  while (listed < limit.k && !sums.empty()) {
    const double score = sign * sums.next_sum();
    const bool last = limit.until_exact && certificate.covers(score);
    certificate.add(score);
    flips.lengths.push_back(sums.pop(flips.parts));
    ++listed;
    if (last) break;
  }
  return listed;
}

template <typename T>
int64_t k_best_rows(const T* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                    const KBestLimit& limit, uint8_t* base, int64_t* counts, FlipLists& flips) {
  const bool free = least == 0 && most >= bits;
  const double epsilon = std::numeric_limits<T>::epsilon();
  if (!limit.until_exact && limit.k <= 1024) {
    flips.lengths.reserve(flips.lengths.size() + static_cast<size_t>(rows * limit.k));
    flips.parts.reserve(flips.parts.size() + static_cast<size_t>(2 * rows * limit.k));
  }
  std::vector<Ranked> numbers, window;
  SubsetSums subsets(numbers);
  BoundedSums bounded;
  for (int64_t row = 0; row < rows; ++row) {
    const T* t = scores + row * bits;
    uint8_t* on = base + row * bits;
    int legal = 1;
    for (int64_t i = 0; i < bits; ++i) {
      on[i] = t[i] > 0;
      legal &= t[i] < std::numeric_limits<T>::infinity();
    }
    if (!legal) return row;

    if (free) {
      smallest_magnitudes(t, bits, std::min(bits, limit.k - 1), numbers);
      subsets.start();
      flips.lengths.push_back(0);
      counts[row] = list_sets(subsets, -1, limit, epsilon, 1, flips);
      continue;
    }
    numbers.clear();
    int64_t positive = 0;
    for (int64_t i = 0; i < bits; ++i) {
      if (t[i] == -std::numeric_limits<T>::infinity()) continue;
      numbers.push_back({-static_cast<double>(t[i]), i});
      positive += t[i] > 0;
    }
    const auto finite = static_cast<int64_t>(numbers.size());
    if (finite < least) return row;
    const int64_t size = std::clamp(positive, least, std::min(most, finite));
    // The k best stay within k ranks of the best one's border.
    const int64_t reach = std::min(limit.k, bits);
    const int64_t begin = std::max<int64_t>(0, size - reach);
    const int64_t end = std::min(finite, size + reach);
    sort_window(numbers, begin, end);
    if (size != positive) {
      std::fill(on, on + bits, uint8_t{0});
      for (int64_t r = 0; r < size; ++r) on[numbers[static_cast<size_t>(r)].bit] = 1;
    }
    window.assign(numbers.begin() + begin, numbers.begin() + end);
    bounded.start(window, begin, end, least, most, size);
    counts[row] = list_sets(bounded, 1, limit, epsilon, 0, flips);
  }
  return -1;
}

}  // namespace

int64_t k_best_bits(const float* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                    const KBestLimit& limit, uint8_t* base, int64_t* counts, FlipLists& flips) {
  return k_best_rows(scores, rows, bits, least, most, limit, base, counts, flips);
}
int64_t k_best_bits(const double* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                    const KBestLimit& limit, uint8_t* base, int64_t* counts, FlipLists& flips) {
  return k_best_rows(scores, rows, bits, least, most, limit, base, counts, flips);
}

}  // namespace sparsum::kernels
